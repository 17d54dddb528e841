//! Output formats. Each takes a disk or a tree and writes once, in order.
