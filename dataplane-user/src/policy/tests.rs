//! Decisions of whole worlds: by rule of the contract, and in random worlds.

mod property;
mod rules;
