//! Every fuzz target on its corpus, and on what that mutates to.

use std::{fs, io, path::Path};

use connprobe_fuzz::Target;
use proptest::{collection::vec, prelude::*, sample::Index};

/// A repository is no place for more.
const LARGEST_BYTES: usize = 400_000;

fn corpus(target: Target) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name());
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().map(fs::read).collect()
}

#[test]
fn every_target_bears_its_corpus() {
    for target in Target::ALL {
        let corpus = corpus(target).unwrap();
        assert!(corpus.len() >= 5, "{target:?} has a corpus");
        assert!(corpus.iter().map(Vec::len).sum::<usize>() < LARGEST_BYTES, "{target:?}");
        corpus.iter().for_each(|data| target.run(data));
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: Index, bits: u8 },
    Cut { from: Index, to: Index },
    Repeat { from: Index, to: Index },
    Append { other: Index },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), 1u8..).prop_map(|(at, bits)| Mutation::Flip { at, bits }),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Mutation::Cut { from, to }),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Mutation::Repeat { from, to }),
        1 => any::<Index>().prop_map(|other| Mutation::Append { other }),
    ]
}

fn mutate(data: &mut Vec<u8>, mutation: &Mutation, corpus: &[Vec<u8>]) {
    let end = data.len() + 1;
    let range = |from: &Index, to: &Index| {
        let (one, other) = (from.index(end), to.index(end));
        one.min(other)..one.max(other)
    };
    match mutation {
        Mutation::Flip { at, bits } if !data.is_empty() => {
            let at = at.index(data.len());
            data.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
        }
        Mutation::Flip { .. } => {}
        Mutation::Cut { from, to } => drop(data.drain(range(from, to))),
        Mutation::Repeat { from, to } => data.extend_from_within(range(from, to)),
        Mutation::Append { other } => data.extend_from_slice(other.get::<Vec<u8>>(corpus)),
    }
}

#[test]
fn every_target_bears_what_its_corpus_mutates_to() {
    for target in Target::ALL {
        let corpus = corpus(target).unwrap();
        let strategy = (any::<Index>(), vec(mutation(), 1..8));
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
        let result = runner.run(&strategy, |(chosen, mutations)| {
            let mut data = chosen.get(&corpus).clone();
            mutations.iter().for_each(|mutation| mutate(&mut data, mutation, &corpus));
            target.run(&data);
            Ok(())
        });
        result.unwrap_or_else(|failure| panic!("{target:?}: {failure}"));
    }
}
