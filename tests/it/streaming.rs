//! Bodies and interim answers on their way.
