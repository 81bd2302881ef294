//! What is learnt from outside.
