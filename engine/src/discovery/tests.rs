//! Three regions on a fake clock and a fake network: what discovery promises, seen from its lists.

mod lists;
mod mesh;
mod refusals;
