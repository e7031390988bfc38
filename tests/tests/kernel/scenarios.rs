//! Every scenario of the catalogue. Of a failure each connection is told, whenever the watch began: verdict, cause, confidence, owner and
//! deadline are right, and the kernel gives up when it was said to. Of a control nothing is told.

use anyhow::Result;
use connprobe_tests::{
    runner::{Test, TestContext},
    scenario::{
        self, Scenario,
        play::{Watched, ensure_right, play},
    },
};

pub(crate) fn tests() -> Vec<Test> {
    scenario::all().into_iter().map(test).collect()
}

fn test(scenario: Scenario) -> Test {
    let summary = scenario.summary;
    let name = match scenario.is_control() {
        true => format!("no finding ({}): {summary}", scenario.name),
        false => format!("found in time and whenever the watch began ({}): {summary}", scenario.name),
    };
    let (is_alone, is_shared, limit) = (scenario.is_alone, scenario.is_shared, scenario.limit);
    let needs = scenario.needs.clone();
    let mut test = Test::new(name, &needs, move |_: &TestContext| play_once(&scenario)).within(limit);
    if is_alone {
        test = test.alone();
    }
    if is_shared { test } else { test.not_shared() }
}

fn play_once(scenario: &Scenario) -> Result<()> {
    let watched = play(scenario)?;
    for Watched { seat, watch, connections, summary, .. } in &watched {
        let seen: u64 = summary.hooks.iter().map(|hook| hook.seen).sum();
        println!("{}: {seat}, {watch:?}: {seen} events", scenario.name);
        for outcome in connections.iter().flatten() {
            println!("{}: {seat}, {watch:?}: {outcome:?}", scenario.name);
        }
    }
    ensure_right(scenario, &watched)
}
