//! One task per hosted partition (layer 4).
