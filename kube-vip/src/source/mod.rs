//! What is learnt from outside.
pub mod file;
