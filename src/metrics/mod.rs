//! What a ranking is worth: accuracy, and what lies beyond accuracy.
