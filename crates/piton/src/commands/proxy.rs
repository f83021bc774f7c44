use std::process::ExitCode;

use piton_core::fault::Fault;
use piton_proxy::{Options, serve};

use crate::cli::Proxy;
use crate::error::Error;

/// Runs the traffic proxy until it is stopped or handed over.
pub(crate) fn run(args: Proxy) -> Result<ExitCode, Error> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    serve(Options { listen: args.listen, dir: args.state, workers })
        .map_err(|error| Fault::surroundings("the proxy cannot run").caused_by(&error))?;
    Ok(ExitCode::SUCCESS)
}
