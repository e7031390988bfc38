//! Tests that depend on the machine: declared with a sentence, their requirements and a function.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use connprobe_tests::require::Requirement::{Netns, Root};
//! use connprobe_tests::runner::{Test, run};
//!
//! fn main() -> ExitCode {
//!     run("kernel", vec![Test::new("a namespace has a loopback device", &[Root, Netns], |test| {
//!         let lab = test.lab()?;
//!         lab.netns("alone")?.sysctl("net.ipv4.conf.lo.forwarding", "1")
//!     })])
//! }
//! ```

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::num::NonZero;
use std::panic;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::lab::Lab;
use crate::registry::{self, lock};
use crate::require::{self, REQUIRE_VARIABLE, Requirement};
use crate::share::Share;

/// How long a test may take unless it says otherwise. Generous: guests compute ten times slower.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// How a line begins that names a test which passed only when it was repeated; `cargo xtask test` looks for it.
const SECOND_TRY: &str = "passed only on the second try: ";

type Function = Arc<dyn Fn(&TestContext) -> Result<()> + Send + Sync>;

/// How long each test took, and its second try.
static DURATIONS: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Held for reading by tests that bear company, for writing by one that does not.
static COMPANY: RwLock<()> = RwLock::new(());

/// A test that is skipped where its requirements are not met.
pub struct Test {
    name: String,
    requirements: Vec<Requirement>,
    limit: Duration,
    is_alone: bool,
    kernels: Kernels,
    function: Function,
}

impl Test {
    /// `name` is a sentence that is true when the test passes.
    pub fn new(
        name: impl Into<String>,
        requirements: &[Requirement],
        function: impl Fn(&TestContext) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let function = Arc::new(function);
        let (name, requirements) = (name.into(), requirements.to_vec());
        Self { name, requirements, limit: DEFAULT_LIMIT, is_alone: false, kernels: Kernels::OneOfThem, function }
    }

    /// Runs the test while no other runs: it keeps the machine so busy that another's times would suffer, or its own would.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Runs the test on every kernel, also where the guests of the matrix share the list between them: what it shows depends on the
    /// kernel.
    #[must_use]
    pub fn on_every_kernel(mut self) -> Self {
        self.kernels = Kernels::Every;
        self
    }

    /// Leaves the test out where the guests share the list: it takes an emulated processor minutes, or what it shows is the same on
    /// every kernel.
    #[must_use]
    pub fn not_shared(mut self) -> Self {
        self.kernels = Kernels::NotShared;
        self
    }

    /// Lets the test take that long instead of two minutes.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// On which kernels a test runs where the guests share the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernels {
    OneOfThem,
    Every,
    NotShared,
}

/// What a running test is given.
#[derive(Clone, Debug)]
pub struct TestContext {
    name: Arc<str>,
    start: Instant,
    notes: Arc<Mutex<String>>,
}

impl TestContext {
    /// The name of the test.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new lab, labelled with the test's name.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn lab(&self) -> Result<Lab> {
        Lab::new(self.name())
    }

    /// Remembers something that is printed, with the seconds since the start, if the test fails.
    pub fn note(&self, text: impl Display) {
        let _ = writeln!(lock(&self.notes), "{:8.3} {text}", self.start.elapsed().as_secs_f64());
    }
}

/// Runs tests with the options of `cargo test` and prints as it does. `group` is the name by which `CONNPROBE_REQUIRE`
/// turns skipped tests of this program into failures.
#[must_use]
pub fn run(group: &'static str, tests: Vec<Test>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert_with(at_once);
    let share = match Share::of_this_process() {
        Ok(share) => share,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let mine = tests.into_iter().enumerate().filter(|(number, test)| match test.kernels {
        Kernels::Every => true,
        Kernels::OneOfThem => share.takes(*number),
        Kernels::NotShared => share == Share::WHOLE,
    });
    let trials = mine.map(|(_, test)| trial(group, test)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    tell_slowest();
    match registry::shut_down() {
        // What a test that ran out of time had made goes here.
        Ok(()) => conclusion.exit_code(),
        Err(error) => {
            tell(&format!("error: cannot tear down: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How many tests run at once where that is not said: they mostly wait, for timers and for the kernel.
fn at_once() -> usize {
    const PER_PROCESSOR: usize = 2;
    PER_PROCESSOR * thread::available_parallelism().map_or(1, NonZero::get)
}

fn trial(group: &'static str, test: Test) -> Trial {
    let name = test.name.clone();
    Trial::ignorable_test(name, move || {
        let Err(missing) = require::check(&test.requirements) else {
            return play(&test).map(|()| Completion::Completed);
        };
        if require::is_failure(&missing, group) {
            return Err(format!("{missing}, and {REQUIRE_VARIABLE} names the group {group}").into());
        }
        tell(&format!("skipped: {}: {missing}", test.name));
        Ok(Completion::ignored_with(missing))
    })
}

/// Tells which tests took longest: with the guests' time the list has to be kept short.
#[expect(clippy::print_stdout, reason = "it stands with the results")]
fn tell_slowest() {
    const TOLD: usize = 25;
    let mut durations = std::mem::take(&mut *lock(&DURATIONS));
    durations.sort_by(|(one, _), (other, _)| other.cmp(one));
    for (duration, name) in durations.iter().take(TOLD) {
        println!("took {:5.1} s: {name}", duration.as_secs_f64());
    }
}

/// An error after which a test is not tried again: something was found that is not there. It must not be found now and then either.
#[derive(Debug)]
pub struct FalseAlarm(pub String);

impl Display for FalseAlarm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for FalseAlarm {}

/// Runs the test. The kernel's own times are measured here, on machines that are shared: one that fails is given a second try
/// while nothing else runs, and one that passes only then is named, for it deserves a look.
#[expect(clippy::print_stdout, reason = "it stands with the results")]
fn play(test: &Test) -> Result<(), Failed> {
    let first = if test.is_alone {
        let _alone = COMPANY.write().unwrap_or_else(PoisonError::into_inner);
        timed(test)
    } else {
        let _company = COMPANY.read().unwrap_or_else(PoisonError::into_inner);
        timed(test)
    };
    let Err(failure) = first else { return Ok(()) };
    if failure.is_false_alarm {
        return Err(failure.message.into());
    }
    tell(&format!("{} is tried again after:\n{}", test.name, failure.message));
    let _alone = COMPANY.write().unwrap_or_else(PoisonError::into_inner);
    timed(test).map_err(|failure| failure.message)?;
    println!("{SECOND_TRY}{}", test.name);
    Ok(())
}

fn timed(test: &Test) -> Result<(), Failure> {
    let start = Instant::now();
    let result = execute(test);
    lock(&DURATIONS).push((start.elapsed(), test.name.clone()));
    result
}

/// How a test failed.
#[derive(Debug)]
struct Failure {
    message: String,
    is_false_alarm: bool,
}

/// Runs the test once, on a thread of its own, so that one that hangs fails instead of stopping the rest.
fn execute(test: &Test) -> Result<(), Failure> {
    let context = TestContext {
        name: test.name.as_str().into(),
        start: Instant::now(),
        notes: Arc::new(Mutex::new(String::new())),
    };
    let given = context.clone();
    let (sender, receiver) = mpsc::channel();
    let function = Arc::clone(&test.function);
    let body = move || {
        // Nobody listens any more if the time is over.
        let _ = sender.send(function(&given));
    };
    let thread = thread::Builder::new().name(context.name().to_owned()).spawn(body);
    let thread = thread.map_err(|error| Failure { message: error.to_string(), is_false_alarm: false })?;
    let mut is_false_alarm = false;
    let message = match receiver.recv_timeout(test.limit) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => {
            is_false_alarm = error.is::<FalseAlarm>();
            format!("{error:?}")
        }
        Err(RecvTimeoutError::Timeout) => format!("not finished after {:?}", test.limit),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => "the test ended without a result".to_owned(),
            Err(payload) => {
                tell_notes(&context);
                panic::resume_unwind(payload)
            }
        },
    };
    Err(Failure { message: format!("{message}\n{}", lock(&context.notes)), is_false_alarm })
}

fn tell_notes(context: &TestContext) {
    let notes = lock(&context.notes);
    if !notes.is_empty() {
        tell(&format!("{}:\n{notes}", context.name));
    }
}

fn tell(line: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::{anyhow, bail};

    use super::*;

    fn message(test: Test) -> String {
        execute(&test).unwrap_err().message
    }

    #[test]
    fn a_test_that_hangs_fails_in_time() {
        let test = Test::new("hangs", &[], |_| {
            loop {
                thread::park();
            }
        });
        assert!(message(test.within(Duration::from_millis(20))).starts_with("not finished after 20ms"));
    }

    #[test]
    fn a_test_that_fails_is_tried_again_unless_it_has_found_what_is_not_there() {
        let once = |error: fn() -> anyhow::Error| {
            let runs = AtomicU32::new(0);
            Test::new("fails at first", &[], move |_| {
                if runs.fetch_add(1, Ordering::Relaxed) > 0 { Ok(()) } else { Err(error().context("outcome")) }
            })
        };
        assert!(play(&once(|| anyhow!("late"))).is_ok());
        assert!(play(&once(|| FalseAlarm("something".to_owned()).into()).alone()).is_err());
        let always = Test::new("fails always", &[], |_| bail!("every run"));
        assert!(play(&always).is_err());
    }

    #[test]
    fn a_failure_carries_its_causes_and_the_notes() {
        let test = Test::new("fails", &[], |test| {
            test.note("half way");
            Err(anyhow!("cause").context("outcome"))
        });
        let message = message(test);
        assert!(["outcome", "cause", "half way"].iter().all(|part| message.contains(part)), "{message}");
    }

    #[test]
    fn a_panic_goes_on_to_the_caller() {
        let test = Test::new("panics", &[], |_| {
            if true {
                panic::resume_unwind(Box::new("out"));
            }
            bail!("not reached")
        });
        let caught = panic::catch_unwind(panic::AssertUnwindSafe(|| execute(&test)));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"out"));
    }
}
