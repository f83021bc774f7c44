//! A golden copy kept in step with later writes: each is carried back through the migrations into the structure of before.
