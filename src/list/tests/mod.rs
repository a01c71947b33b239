//! Listings in virtual time and under a scheduler of threads.

mod interleavings;
mod simulation;
