//! Where a root comes from without host tools.
