//! Access decisions (layer 2, pure).
