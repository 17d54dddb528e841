//! Request, plan and run of a build.
