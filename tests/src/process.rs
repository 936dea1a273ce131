//! Real daemon processes for tests.
