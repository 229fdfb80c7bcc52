//! One-seed simulator of cards, flash, links and server with faults and checkers.
