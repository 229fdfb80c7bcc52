//! Key custody of the management server behind one Hsm trait.
