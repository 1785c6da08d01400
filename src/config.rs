//! Configuration (layer 7).
