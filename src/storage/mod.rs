//! The partition log on disk (layer 3).
