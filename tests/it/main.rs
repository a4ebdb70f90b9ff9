//! The one integration test target. Behaviour tests speak HTTP to a running proxy; the
//! module list says where a new test goes.

mod architecture;
