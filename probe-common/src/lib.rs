//! The ABI between connprobe's kernel programs and user space.
//!
//! Integers and byte arrays only: no `bool`, no `Option`, no enum with data crosses the border. Every padding is a named
//! field, and the size and the offset of every field are asserted at compile time, so that the two sides, compiled by two
//! compilers, cannot drift apart in silence.

#![no_std]

pub mod abi;
pub mod connection;
pub mod fields;
pub mod settings;
