// A closed form and a job by the client of @hey-api/openapi-ts; the argument is the address of the server.

import {
  computeClosedForm,
  getJobResult,
  getJobResultNpz,
  getJobResultPng,
  getJobResultSvg,
  type JobRequest,
  submitJob,
} from "./hey";
import { client } from "./hey/client.gen";

client.setConfig({ baseUrl: process.argv[2] });
const model = { kind: "quadratic" as const, matrix: [[4, 4], [4, 16]] };
const job: JobRequest = {
  kind: "spectrum",
  model: { kind: "mlp", widths: [64, 4, 10] },
  data: { kind: "digits", num_samples: 32 },
  loss: "cross-entropy",
  method: { kind: "lanczos", num_steps: 5, num_probes: 2 },
};
// @ts-expect-error num_steps is none of the fields of this method
const mistaken: JobRequest = { ...job, method: { kind: "exact", num_steps: 5 } };

async function start(bytes: Blob | undefined): Promise<number[]> {
  return [...new Uint8Array(await bytes!.arrayBuffer()).subarray(0, 4)];
}

async function main() {
  const { data: spectrum } = await computeClosedForm({ body: { model } });
  const picture = await computeClosedForm({ body: { model }, headers: { accept: "image/png" } });
  const refused = await submitJob({ body: mistaken });

  const { data: submitted } = await submitJob({ body: job, headers: { prefer: "wait=60" } });
  const path = { job_id: submitted!.id };
  const { data: result } = await getJobResult({ path });
  if (result?.kind !== "spectrum" || result.method !== "lanczos") throw new Error("another kind of result");
  const npz = await getJobResultNpz({ path, parseAs: "blob" });
  const png = await getJobResultPng({ path });
  const svg = await getJobResultSvg({ path });

  const found = {
    sharpness: spectrum?.sharpness,
    picture: await start(picture.data as unknown as Blob),
    refused: refused.error?.errors?.map((error) => error.loc),
    state: submitted?.state,
    largest: result.largest.value,
    points: result.density.grid.length,
    npz: await start(npz.data),
    png: await start(png.data),
    svg: (await svg.data!.text()).slice(0, 5),
  };
  console.log(JSON.stringify(found));
}

void main();
