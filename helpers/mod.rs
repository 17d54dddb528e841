//! Programs that hooks call, in any root: no interpreter and no shared library.
