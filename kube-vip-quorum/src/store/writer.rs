//! The thread that writes the log: one thing after the other, each synced before it counts.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use super::files::{Files, StoreError, io};
use super::{LOG, record};

/// Told when something is on disk, or why it is not.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

enum Job {
    /// Payloads to append.
    Append(Vec<Vec<u8>>, Done),
    /// Payloads that take the place of the whole file.
    Replace(Vec<Vec<u8>>, Done),
}

/// The way to that thread.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    thread: Arc<Thread>,
    failure: Arc<Mutex<Option<String>>>,
}

/// Ends when nobody can send it anything any more, and is waited for: it still has the directory.
#[derive(Debug)]
struct Thread {
    jobs: Option<mpsc::Sender<Job>>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

impl Writer {
    /// Opens the log for writing after `whole` bytes, which hold so many `records`. What follows
    /// was not written to its end and is cut off.
    pub(super) fn open(files: &Arc<Files>, whole: u64, records: u32) -> Result<Self, StoreError> {
        let path = files.path(LOG);
        let mut file = File::options().write(true).open(&path).map_err(io("open", &path))?;
        file.set_len(whole).map_err(io("shorten", &path))?;
        file.seek(SeekFrom::Start(whole)).map_err(io("write", &path))?;
        file.sync_all().map_err(io("sync", &path))?;
        let (jobs, to_do) = mpsc::channel();
        let failure = Arc::new(Mutex::new(None));
        let pen = Pen { files: Arc::clone(files), file, records, failure: Arc::clone(&failure) };
        let thread = thread::Builder::new().name("kube-vip-log".to_owned());
        let handle = thread.spawn(move || pen.work(&to_do));
        let handle = Some(handle.map_err(io("start a thread for", &path))?);
        Ok(Self { thread: Arc::new(Thread { jobs: Some(jobs), handle }), failure })
    }

    pub(super) fn append(&self, payloads: Vec<Vec<u8>>, done: Done) {
        self.send(Job::Append(payloads, done));
    }

    pub(super) fn replace(&self, payloads: Vec<Vec<u8>>, done: Done) {
        self.send(Job::Replace(payloads, done));
    }

    /// Writes nothing more; what was sent before is written when this returns.
    pub(super) fn close(&self) {
        let (done, closed) = mpsc::channel();
        self.append(Vec::new(), Box::new(move |_| done.send(()).unwrap_or_default()));
        let _ = closed.recv();
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| "the state directory has been closed".to_owned());
    }

    /// Why nothing is written any more.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, job: Job) {
        let unsent = match &self.thread.jobs {
            Some(jobs) => jobs.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some(Job::Append(_, done) | Job::Replace(_, done)) = unsent {
            done(Err(io::Error::other("the thread that writes the log has ended")));
        }
    }
}

struct Pen {
    files: Arc<Files>,
    file: File,
    records: u32,
    failure: Arc<Mutex<Option<String>>>,
}

impl Pen {
    fn work(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let (result, done) = match job {
                Job::Append(payloads, done) => (self.append(&payloads), done),
                Job::Replace(payloads, done) => (self.replace(&payloads), done),
            };
            done(result.map_err(|error| io::Error::other(error.to_string())));
        }
    }

    /// After one failure nothing more is written: what the kernel has kept of it is not known, and
    /// a later success would say that it is on disk.
    fn once_failed(&self) -> io::Result<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(io::Error::other(failure.clone())),
            None => Ok(()),
        }
    }

    fn fail(&self, error: &StoreError) -> io::Error {
        let text = error.to_string();
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        io::Error::other(text)
    }

    fn append(&mut self, payloads: &[Vec<u8>]) -> io::Result<()> {
        self.once_failed()?;
        let numbers = self.records..;
        let bytes: Vec<u8> =
            numbers.zip(payloads).flat_map(|(number, it)| record::encode(number, it)).collect();
        let path = self.files.path(LOG);
        let written = self.file.write_all(&bytes).map_err(io("write", &path));
        let synced = written.and_then(|()| self.file.sync_data().map_err(io("sync", &path)));
        synced.map_err(|error| self.fail(&error))?;
        self.records += payloads.len() as u32;
        Ok(())
    }

    fn replace(&mut self, payloads: &[Vec<u8>]) -> io::Result<()> {
        self.once_failed()?;
        let bytes: Vec<u8> =
            (0..).zip(payloads).flat_map(|(number, it)| record::encode(number, it)).collect();
        let replaced = self.files.replace(LOG, &bytes);
        self.file = replaced.map_err(|error| self.fail(&error))?;
        self.records = payloads.len() as u32;
        Ok(())
    }
}
