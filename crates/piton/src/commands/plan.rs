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
        format!("Release of {} {} to {}   ({now})", plan.app, plan.commit.short(), plan.environment),
        format!("  {}", plan.commit.subject),
        String::new(),
        row(["step", "what it does", "how it is undone"]).dimmed().to_string(),
    ];
    for step in &plan.steps {
        lines.extend(step_lines(step, commands));
    }
    if !plan.remarks.is_empty() {
        lines.push(String::new());
        for remark in &plan.remarks {
            let text = ui::wrap(remark, 92).join("\n        ");
            lines.push(format!("  {} {text}", "note:".yellow()));
        }
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

/// The widths of what a step does and of how it is undone; with the step's name they fill a hundred columns.
const DOES: usize = 48;
const UNDO: usize = 32;

fn row([step, does, undo]: [&str; 3]) -> String {
    format!("  {step:<15} {does:<DOES$}  {undo}").trim_end().to_owned()
}

fn step_lines(step: &PlannedStep, commands: bool) -> Vec<String> {
    let (does, undo) = (ui::wrap(&step.does, DOES), ui::wrap(&step.undo, UNDO));
    let cell = |lines: &[String], index: usize| lines.get(index).cloned().unwrap_or_default();
    let mut lines: Vec<String> = (0..does.len().max(undo.len()))
        .map(|index| {
            let name = if index == 0 { step.id.as_str() } else { "" };
            row([name, &cell(&does, index), &cell(&undo, index)])
        })
        .collect();
    if commands {
        lines.extend(step.commands.iter().map(|command| format!("  {:<15} $ {command}", "")));
    }
    lines
}
