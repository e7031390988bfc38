//! The harness: network namespaces in which real TCP connections really fail, and the program watching them.
//!
//! A test asks its [`runner::TestContext`] for a [`lab::Lab`], the lab for namespaces, joins them with
//! [`link::veth`], makes traffic with [`peer::Peer`], breaks something ([`netns::Netns::nft`],
//! [`netns::Netns::link_down`], [`netns::Netns::del_address`]) and reads what [`probe::Probe`] says.
//!
//! Whatever is made here is taken away again: when its owner is dropped (also by a panic), when the process gets
//! SIGINT, SIGTERM or SIGHUP, and, after a SIGKILL, by the next process that makes a lab. Only namespaces whose names begin
//! with [`lab::PREFIX`] are ever touched.

pub mod child;
pub mod clocks;
pub mod collector;
pub mod daemon;
pub mod facts;
pub mod findings;
pub mod firewall;
pub mod http;
pub mod lab;
pub mod labs;
mod leftovers;
mod lines;
pub mod link;
mod netlink;
pub mod netns;
mod offload;
mod openvswitch;
pub mod padded;
pub mod peer;
pub mod probe;
pub mod programs;
mod registry;
pub mod require;
pub mod rsyslog;
pub mod runner;
pub mod scenario;
pub mod server;
mod share;
pub mod store;
pub mod stray;
pub mod sysctl;
pub mod unpacked;
pub mod watching;
pub mod wire;
