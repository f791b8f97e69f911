//! doc
pub mod tree;
