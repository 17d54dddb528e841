//! Which node depends on which, and the order in which DIB calls them.

use std::collections::HashMap;

use super::error::ConfigError;

/// Names and the dependencies between them.
#[derive(Debug, Default)]
pub(super) struct Graph {
    names: Vec<String>,
    by_name: HashMap<String, usize>,
    successors: Vec<Vec<usize>>,
    predecessors: Vec<usize>,
}

impl Graph {
    /// Adds a node.
    pub fn add(&mut self, name: &str) -> Result<(), ConfigError> {
        if self
            .by_name
            .insert(name.to_owned(), self.names.len())
            .is_some()
        {
            return Err(ConfigError::DuplicateName {
                name: name.to_owned(),
            });
        }
        self.names.push(name.to_owned());
        self.successors.push(Vec::new());
        self.predecessors.push(0);
        Ok(())
    }

    /// Makes `to` depend on `from`.
    pub fn edge(&mut self, from: &str, to: &str) -> Result<(), ConfigError> {
        let undefined = || ConfigError::EdgeNotDefined {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        let &from_index = self.by_name.get(from).ok_or_else(undefined)?;
        let &to_index = self.by_name.get(to).ok_or_else(undefined)?;
        if !self.successors[from_index].contains(&to_index) {
            self.successors[from_index].push(to_index);
            self.predecessors[to_index] += 1;
        }
        Ok(())
    }

    /// A topological order, generation by generation, as upstream's library gives it.
    pub fn order(self) -> Result<Vec<String>, ConfigError> {
        let Graph {
            names,
            successors,
            mut predecessors,
            ..
        } = self;
        let mut order = Vec::with_capacity(names.len());
        let mut generation: Vec<usize> = (0..names.len())
            .filter(|&node| predecessors[node] == 0)
            .collect();
        while !generation.is_empty() {
            let mut next = Vec::new();
            for node in generation {
                for &successor in &successors[node] {
                    predecessors[successor] -= 1;
                    if predecessors[successor] == 0 {
                        next.push(successor);
                    }
                }
                order.push(node);
            }
            generation = next;
        }
        if order.len() < names.len() {
            let stuck = |&node: &usize| predecessors[node] > 0;
            let nodes = (0..names.len())
                .filter(stuck)
                .map(|node| names[node].clone())
                .collect();
            return Err(ConfigError::Cycle { nodes });
        }
        Ok(order.into_iter().map(|node| names[node].clone()).collect())
    }
}
