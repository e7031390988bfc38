//! Recordings of real kernels, replayed: any machine must tell what was told there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use connprobe_tests::probe::{Finished, Probe};
use connprobe_tests::wire::{self, Body};

/// A repository is no place for more.
const LARGEST_BYTES: u64 = 50_000;
const SOON: Duration = Duration::from_secs(30);

fn recordings() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(files.into_iter().filter(|path| path.extension() == Some(OsStr::new("rec"))).collect())
}

/// The one from this vantage.
fn recording(vantage: &str) -> Result<PathBuf> {
    let is_it = |path: &PathBuf| path.display().to_string().contains(vantage);
    recordings()?.into_iter().find(is_it).context("no recording from this vantage")
}

fn replay(file: &Path, more: &[&str]) -> Result<Finished> {
    Probe::run(&[&["replay", &file.display().to_string()], more].concat(), SOON)
}

#[test]
fn what_is_told_of_a_recording_is_what_was_told_where_it_was_made() {
    let recordings = recordings().unwrap();
    assert!(recordings.len() >= 2, "one from either vantage");
    let mut vantages = Vec::new();
    for recording in recordings {
        let replayed = replay(&recording, &["--format", "ndjson"]).unwrap();
        assert_eq!(replayed.stderr, "");
        let expected = fs::read_to_string(recording.with_extension("ndjson")).unwrap();
        for (number, (replayed, expected)) in replayed.stdout.lines().zip(expected.lines()).enumerate() {
            assert_eq!(replayed, expected, "{}, line {number}; see `cargo xtask golden`", recording.display());
        }
        assert_eq!(replayed.stdout, expected);
        for record in wire::read_all(&replayed.records).unwrap() {
            match record.body {
                Body::Finding(_) => vantages.push("endpoint"),
                Body::Forwarded(_) => vantages.push("forwarder"),
                _ => {}
            }
        }
        assert!(fs::metadata(&recording).unwrap().len() < LARGEST_BYTES, "{}", recording.display());
    }
    assert!(vantages.contains(&"endpoint") && vantages.contains(&"forwarder"), "{vantages:?}");
}

#[test]
fn a_replay_takes_as_long_as_the_run_when_asked_to() {
    let recording = recording("forwarder").unwrap();
    let start = std::time::Instant::now();
    let fast = replay(&recording, &["--format", "ndjson", "--speed", "20x"]).unwrap();
    // Some seconds were recorded.
    assert!(start.elapsed() > Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(fast.stdout, replay(&recording, &["--format", "ndjson"]).unwrap().stdout);
}

#[test]
fn the_json_and_the_text_of_a_replay_say_the_same() {
    let recording = recording("endpoint").unwrap();
    let json = replay(&recording, &["--format", "json"]).unwrap();
    let records: Vec<serde_json::Value> = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(records, replay(&recording, &["--format", "ndjson"]).unwrap().records);
    assert_eq!(json.code, Some(1));
    assert_eq!(replay(&recording, &["--fail-on", "never"]).unwrap().code, Some(0));
    let text = replay(&recording, &["--follow"]).unwrap().stdout;
    for wanted in ["retransmit_stalled, peer_silent (confirmed)", "10.77.2.1:5672", "connprobe-peer", "ETIMEDOUT"] {
        assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
}

#[test]
fn what_cannot_be_replayed_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let header = connprobe::recording::header();
    for (path, words) in [
        (folder.path().to_owned(), "directory"),
        (folder.path().join("nowhere"), "No such file"),
        (file("empty", b""), "it is empty"),
        (file("foreign", b"{\"schema\":\"connprobe/1\"}\n"), "no recording of connprobe"),
        (file("later", b"connprobe-recording 99 9.9.9\n"), "format 99 by connprobe 9.9.9"),
        (file("nothing", header.as_bytes()), "holds nothing"),
        (file("cut", &[header.as_bytes(), &[1, 2, 3]].concat()), "in the middle of a frame at byte"),
    ] {
        let refused = replay(&path, &[]).unwrap();
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "no {words:?} in: {}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    }
    let speed = replay(&folder.path().join("empty"), &["--speed", "fast"]).unwrap();
    assert!(speed.code == Some(2) && speed.stderr.contains("10x"), "{}", speed.stderr);
}

#[test]
fn a_recording_that_was_cut_anywhere_tells_a_beginning() {
    let recording = recording("endpoint").unwrap();
    let (bytes, whole) = (fs::read(&recording).unwrap(), replay(&recording, &["--format", "ndjson"]).unwrap().stdout);
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.rec");
    let mut told = 0;
    for part in 1..8 {
        fs::write(&cut, &bytes[..bytes.len() * part / 8]).unwrap();
        let replayed = replay(&cut, &["--format", "ndjson"]).unwrap();
        if replayed.stdout.is_empty() {
            assert_eq!(replayed.code, Some(2), "{}", replayed.stderr);
            continue;
        }
        assert!(replayed.stderr.contains("interrupted"), "{}", replayed.stderr);
        let lines: Vec<_> = replayed.stdout.lines().collect();
        // The last line is the summary of what could be read.
        assert!(whole.lines().zip(&lines[..lines.len() - 1]).all(|(whole, cut)| whole == *cut));
        told += 1;
    }
    assert!(told > 2);
}
