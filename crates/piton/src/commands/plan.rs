use std::process::ExitCode;

use owo_colors::OwoColorize;
use piton_core::plan::{Plan, PlannedStep};
use piton_core::project::Project;
use piton_core::step::Finding;
use piton_core::words;

use crate::cli;
use crate::error::{Error, REFUSED};
use crate::{json, ui};

/// Shows what a release would do; changes nothing.
pub(crate) async fn run(project: &Project, args: &cli::Plan) -> Result<ExitCode, Error> {
    let settings = project.settings(&args.target.environment)?;
    let plan = project.plan(&settings, &args.reference, false).await?;
    let findings = project.findings(&plan, settings).await?;
    let refused = findings.iter().any(|finding| finding.refusal.is_some());
    if args.target.json {
        let mut value = json::plan(&plan);
        value["guards"] = json::findings(&findings);
        ui::data(&json::pretty(&value));
    } else {
        ui::data(&text(&plan, &findings, args.commands));
    }
    Ok(if refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

fn text(plan: &Plan, findings: &[Finding], commands: bool) -> String {
    let now = plan.live.as_ref().map_or_else(
        || "nothing runs there yet".to_owned(),
        |live| {
            format!(
                "now running: {}, {}, since {}",
                live.commit.short(),
                live.start.slot,
                words::day(live.since)
            )
        },
    );
    let mut lines = vec![
        format!("Release of {} {} to {}  ({now})", plan.app, plan.commit.short(), plan.environment),
        format!("  {}", plan.commit.subject),
        String::new(),
    ];
    for step in &plan.steps {
        lines.extend(step_lines(step, commands));
    }
    if !plan.remarks.is_empty() {
        lines.push(String::new());
        lines.extend(plan.remarks.iter().map(|remark| format!("  {} {remark}", "note:".yellow())));
    }
    lines.push(String::new());
    let refusals: Vec<_> = findings.iter().filter_map(|finding| finding.refusal.as_ref()).collect();
    match refusals.len() {
        0 => lines.push(format!("  All {} guards let it pass.", findings.len())),
        count => lines.push(format!("  {count} of {} guards refuse it now:", findings.len())),
    }
    lines.extend(refusals.into_iter().map(ui::fault));
    if !commands {
        lines.push(format!("  piton plan {} --commands shows every command.", plan.environment));
    }
    lines.join("\n")
}

fn step_lines(step: &PlannedStep, commands: bool) -> Vec<String> {
    let mut lines = vec![
        format!("  {:<16}{}", step.id.bold(), step.does),
        format!("  {:<16}undo: {}", "", step.undo).dimmed().to_string(),
    ];
    if commands {
        lines.extend(step.commands.iter().map(|command| format!("  {:<16}$ {command}", "")));
    }
    lines
}
