//! A renderer for burn's training that prints a line an epoch.

use std::collections::{BTreeMap, HashMap};

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, MetricId};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};

/// The metrics of an epoch so far.
#[derive(Default)]
pub(crate) struct EpochReport {
    names: HashMap<MetricId, String>,
    line: BTreeMap<String, f64>,
}

impl EpochReport {
    fn note(&mut self, split: &str, state: &MetricState) {
        if let MetricState::Numeric(entry, Some(numeric)) = state
            && let Some(name) = self.names.get(&entry.metric_id)
        {
            self.line.insert(format!("{split} {name}"), numeric.current());
        }
    }
}

impl MetricsRendererTraining for EpochReport {
    fn update_train(&mut self, state: MetricState) {
        self.note("train", &state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.note("validation", &state);
    }
}

impl TrainingProgressLogger for EpochReport {
    fn update_epoch(&mut self, epoch: usize) {
        let metrics: Vec<_> = self.line.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        println!("epoch {epoch}: {}", metrics.join(", "));
        self.line.clear();
    }

    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl MetricsRenderer for EpochReport {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name.to_string());
    }
}

impl MetricsRendererEvaluation for EpochReport {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl EvaluationProgressLogger for EpochReport {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}
