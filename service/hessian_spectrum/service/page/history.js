// Requests that were sent from this browser, so that a job can be run again with one value changed.

const PREFIX = "hessian-spectrum-request ";
const MOST = 100;

export function remember(jobId, request) {
  try {
    localStorage.setItem(PREFIX + jobId, JSON.stringify(request));
    const kept = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).sort(); // ids sort by age
    for (const key of kept.slice(0, -MOST)) localStorage.removeItem(key);
  } catch { /* the browser keeps nothing for this page */ }
}

export function recall(jobId) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + jobId));
  } catch {
    return null;
  }
}
