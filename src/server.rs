//! Composition root (layer 7).
