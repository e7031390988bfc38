//! A traffic peer: one process that owns the sockets of a test, told by lines on standard input, telling by JSON lines on
//! standard output. It ends when standard input ends.

mod arguments;
mod churn;
mod connection;
mod event;
mod serve;
mod socket;

use std::process::ExitCode;

use clap::Parser as _;
use serde_json::json;

use crate::arguments::{Arguments, Task};

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Listen(arguments) => serve::listen(&arguments),
        Task::Connect(arguments) => serve::connect(&arguments),
        Task::Churn(arguments) => churn::churn(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard output is what failed, the exit code alone must do.
            let _ = event::emit("failed", json!({ "message": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}
