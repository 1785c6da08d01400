//! Named tasks, joined on shutdown (layer 1).
