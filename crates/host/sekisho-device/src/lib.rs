//! The agent beside the secure element.
