//! HTTP (layer 6).
