//! What a cluster agrees on (layer 3): commands applied to SQLite.
