//! dataflux
