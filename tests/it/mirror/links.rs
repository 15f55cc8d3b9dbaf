//! Pushes over links that are slow, silent, or cut.
