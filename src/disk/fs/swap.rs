//! Swap areas.
