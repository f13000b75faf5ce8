//! Single rules of the cleaner, each as a story of its own.
