//! The applications of a product, and a TLS Manager beside them.

use sekisho_os::{Application, Applications, ContainerId, Instance, Loading, Module, Pool, State};

use crate::TlsManager;

/// Applications with one TLS Manager beside them.
#[derive(Debug)]
pub struct WithTls<A> {
    others: A,
    tls_managers: Pool<TlsManager, 1>,
}

impl<A: Applications> Applications for WithTls<A> {
    const NEW: Self = Self {
        others: A::NEW,
        tls_managers: Pool::NEW,
    };

    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application> {
        match module {
            Module::TLS_MANAGER => Some(self.tls_managers.get(instance)?),
            _ => self.others.get(module, instance),
        }
    }

    fn release(&mut self, module: Module, instance: Instance) {
        match module {
            Module::TLS_MANAGER => self.tls_managers.release(instance),
            _ => self.others.release(module, instance),
        }
    }

    fn places(&self, module: Module) -> usize {
        match module {
            Module::TLS_MANAGER => self.tls_managers.places(),
            _ => self.others.places(module),
        }
    }

    fn loading(&mut self, container: ContainerId) -> Option<&mut Loading> {
        self.others.loading(container)
    }
}
