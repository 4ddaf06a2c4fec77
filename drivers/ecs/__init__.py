"""The ECS driver: one service of a cluster is one target, and each named container of its task runs a component.

Verified against: contract. What is sent and read is held against the SDK's own model and against moto's server;
rollouts, the circuit breaker and its rollback against a fake ECS of our own, written from the published API. No real
account was asked.

What an operator should know:

- The service exists before, with its network, load balancer and scaling: those stay the operator's. Its deployment
  controller is ECS itself. It belongs to one target alone, which its tags say; a service that runs something else is
  taken over by the first deploy, and what ran there is put back when that fails.
- The template says what the task is; the release says the image, and the component's configuration how it runs. What
  is said in both is refused, and so is what ECS would not enforce (ports, volumes and networks are the template's).
  Secrets stand in the template's `secrets` as references that ECS itself resolves: no value passes through here.
- The containers of a task change together. All that one action deploys is one rollout; a component that does not change
  keeps its content, and its tasks are replaced all the same. One container cannot be stopped alone. What fails is put
  back alone; what ECS takes back, it takes back whole.
- A task definition is registered once per content, and found again by its tag among the newest hundred of its family.
  Nothing is ever deregistered: what is kept for a rollback is a revision, and costs nothing. A revision that somebody
  copied by hand is seen as what it is, whatever labels were copied with it.
- ECS moves the traffic by its own checks (the container's healthcheck, the load balancer's), before the declared health
  is asked. That is asked at every task's own address, which needs networkMode awsvpc and a way there from here; where
  there is none, declare the component's healthcheck and no health. A command check cannot be run in a task.
- A rollout takes minutes: `rollout` seconds are waited for it, and the proof begins when it has ended. Switch the
  deployment circuit breaker on; what it gives up or takes back is answered as reverted, with its reason, and is seen
  later as a fact of the workload.
- Stickers are tags of the service, eight or nine a component, of the fifty that ECS takes: four components fit.
- Whoever else describes the service (Terraform, CloudFormation) must leave its task definition and the tags that begin
  with holdfast: alone, or each undoes the other's work.
- UpdateService knows no condition: whoever writes last wins. The service is read before each change and after it, and
  fences in its tags make a stale holder stop, but two changes in the same instant are not told apart.

It needs, on the cluster, the service and the family of its task definitions: ecs:DescribeServices, ecs:UpdateService,
ecs:ListTasks, ecs:DescribeTasks, ecs:RegisterTaskDefinition, ecs:DescribeTaskDefinition, ecs:ListTaskDefinitions,
ecs:TagResource, ecs:UntagResource, and iam:PassRole on the roles that the template names.
"""
