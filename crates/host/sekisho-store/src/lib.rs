//! Fleet and campaign state.
