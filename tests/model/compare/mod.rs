//! Model and programs side by side.

pub(crate) mod kernel;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod shrink;
mod values;
