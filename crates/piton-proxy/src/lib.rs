//! The traffic data plane: slots, weights, stickiness, hold, drain, per-slot statistics.
