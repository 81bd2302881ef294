//! What the agent notices of its host, for people: nothing here changes anything.

pub mod capabilities;
pub mod conflicts;
pub(crate) mod reverse_path;
pub mod voices;
