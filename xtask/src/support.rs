//! What several commands share.

pub(crate) mod debs;
pub(crate) mod packages;
pub(crate) mod project;
pub(crate) mod release;
pub(crate) mod results;
pub(crate) mod run;
pub(crate) mod servers;
pub(crate) mod store;
pub(crate) mod tools;
