//! Typed HTTP client (layer 4).
