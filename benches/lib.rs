//! What the benches share: one table of sizes with a fixed seed, so that every
//! arm of a comparison sees the same requests in the same order.
