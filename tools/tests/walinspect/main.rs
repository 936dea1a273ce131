//! `walinspect` as a process, over logs that the real appender wrote.

mod compare;
mod dump;
mod follow;
mod garbage;
mod process;
mod support;
mod verify;
