# The Windows side of Holdfast: one script for Windows PowerShell 5.1 that answers JSON lines on its standard input.
#
# It is begun by a loader that has checked its digest, gets every value as data, and never builds a command line, a path
# outside the root or a script from one. What changes a placement needs its lock, a named mutex that ends with this
# process. A file is written beside its place, brought to the disk and renamed. All of root\ belongs to SYSTEM and the
# Administrators; other accounts of the host read releases\ alone, from which services are run:
#
#     root\.holdfast\owner.json         whose root this is
#     root\<placement>\sticker.json     the sticker, as it is signed
#     root\<placement>\fence.txt        the highest fence that has acted here
#     root\<placement>\record.json      the journal: what was begun and under which key; our own, and not read here
#     root\<placement>\result.json      how the command ended that was ordered last
#     root\<placement>\releases\<id>\   tree\, specification.json and tree.sha256 of one unpacked release
param($Lines, $Order)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$Utf8 = New-Object Text.UTF8Encoding($false)
$Held = @{}                       # placement -> its mutex
$Patience = 90000                 # milliseconds without a word after which whoever holds something is taken for gone
$Services = 'HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\'
$Largest = 4MB                    # of a sticker, a record or a specification

# -- words and files ---------------------------------------------------------------------------------------------------

function Stop-Because([string]$Code, [string]$Text) {
    $trouble = New-Object Exception($Text)
    $trouble.Data['code'] = $Code
    throw $trouble
}

function Get-Digest([byte[]]$Bytes) {
    $summer = [Security.Cryptography.SHA256]::Create()
    try { -join ($summer.ComputeHash($Bytes) | ForEach-Object { $_.ToString('x2') }) } finally { $summer.Dispose() }
}

function Get-FileDigest([string]$Path) {
    $summer = [Security.Cryptography.SHA256]::Create()
    $file = [IO.File]::OpenRead($Path)
    try { -join ($summer.ComputeHash($file) | ForEach-Object { $_.ToString('x2') }) }
    finally { $file.Dispose(); $summer.Dispose() }
}

function Read-Text([string]$Path) {
    if (-not [IO.File]::Exists($Path)) { return $null }
    if ((New-Object IO.FileInfo($Path)).Length -gt $Largest) { Stop-Because 'refused' "$Path is larger than 4 MiB" }
    for ($tries = 1; ; $tries++) {
        try { return [IO.File]::ReadAllText($Path, $Utf8) }
        catch [IO.IOException] { if ($tries -ge 5) { throw } }     # just being replaced
        Start-Sleep -Milliseconds 20
    }
}

function Write-Text([string]$Path, [string]$Text) {
    $bytes = $Utf8.GetBytes($Text)
    $how = [IO.FileMode]::Create, [IO.FileAccess]::Write, [IO.FileShare]::None, 4096, [IO.FileOptions]::WriteThrough
    $file = New-Object IO.FileStream -ArgumentList (@("$Path.new") + $how)
    try { $file.Write($bytes, 0, $bytes.Length); $file.Flush($true) } finally { $file.Dispose() }
    if ([IO.File]::Exists($Path)) { [IO.File]::Replace("$Path.new", $Path, [NullString]::Value) }
    else { [IO.File]::Move("$Path.new", $Path) }
}

function Remove-Tree([string]$Path) {
    if ([IO.Directory]::Exists($Path)) { Remove-Item -LiteralPath $Path -Recurse -Force }
}

# Nobody but SYSTEM and the Administrators, and where it is readable, every account of the host to read.
function Protect-Directory([string]$Path, [bool]$Readable) {
    $acl = New-Object Security.AccessControl.DirectorySecurity
    $acl.SetAccessRuleProtection($true, $false)
    $rights = @{ 'S-1-5-18' = 'FullControl'; 'S-1-5-32-544' = 'FullControl' }
    if ($Readable) { $rights['S-1-5-32-545'] = 'ReadAndExecute' }
    foreach ($sid in $rights.Keys) {
        $who = New-Object Security.Principal.SecurityIdentifier($sid)
        $said = $who, $rights[$sid], 'ContainerInherit,ObjectInherit', 'None', 'Allow'
        $acl.AddAccessRule((New-Object Security.AccessControl.FileSystemAccessRule -ArgumentList $said))
    }
    Set-Acl -LiteralPath $Path -AclObject $acl
}

# -- names: everything that is part of a path or names a service is one of these ---------------------------------------

function Get-Named([string]$Text, [string]$Pattern, [string]$What) {
    if ($Text -cnotmatch "\A(?:$Pattern)\z") { Stop-Because 'invalid' "$What is not one that can be used" }
    $Text
}

function Get-Root($Ask) {
    $root = [string]$Ask.root
    if ($root -notmatch '\A[A-Za-z]:\\' -or $root -match '[*?"<>|/]' -or ($root -split '\\') -contains '..') {
        Stop-Because 'invalid' 'root is no absolute directory'
    }
    $root.TrimEnd('\')
}

function Get-Place($Ask) { [IO.Path]::Combine((Get-Root $Ask), (Get-Named $Ask.folder '[a-z0-9][a-z0-9.-]*' 'folder')) }

function Get-Release($Ask, [string]$Name) {
    [IO.Path]::Combine((Get-Place $Ask), 'releases', (Get-Named $Name '[0-9a-f]{16}' 'release'))
}

function Get-ServiceName([string]$Text) { Get-Named $Text 'holdfast-[0-9a-f]{12}-[a-z0-9.-]+-[0-9a-f]{16}' 'service' }

# -- locks -------------------------------------------------------------------------------------------------------------

function Enter-Lock([string]$Place, [string]$Kind) {
    $id = (Get-Digest $Utf8.GetBytes($Place.ToLowerInvariant())).Substring(0, 32)
    $mutex = New-Object Threading.Mutex($false, "Global\holdfast-$Kind-$id")
    try { $ours = $mutex.WaitOne(0) } catch [Threading.AbandonedMutexException] { $ours = $true }
    if ($ours) { return $mutex }
    $mutex.Dispose()
    return $null
}

function Exit-Lock($Mutex) { $Mutex.ReleaseMutex(); $Mutex.Dispose() }

function Get-Held($Ask) {
    $place = Get-Place $Ask
    if (-not $Held.ContainsKey($place)) { Stop-Because 'invalid' 'the placement is not held' }
    $place
}

function Get-Fence([string]$Place) {
    $text = Read-Text ([IO.Path]::Combine($Place, 'fence.txt'))
    if ($null -eq $text) { 0 } else { [long]$text }
}

# Whose root this is; null where it is nobody's and may be taken.
function Get-Owner([string]$Root) {
    $text = Read-Text ([IO.Path]::Combine($Root, '.holdfast', 'owner.json'))
    if ($null -ne $text) { return ConvertFrom-Json $text }
    if ([IO.Directory]::Exists($Root) -and @([IO.Directory]::GetFileSystemEntries($Root)).Count) {
        Stop-Because 'refused' "$Root is not empty and nobody's"
    }
    return $null
}

function Assert-Ours($Ask, $Owner) {
    if ($null -ne $Owner -and ($Owner.installation -cne $Ask.installation -or $Owner.target -cne $Ask.target)) {
        Stop-Because 'refused' "$($Ask.root) belongs to target $($Owner.target) of installation $($Owner.installation)"
    }
}

function Invoke-Hold($Ask) {
    $root = Get-Root $Ask
    $place = Get-Place $Ask
    $owner = Get-Owner $root
    Assert-Ours $Ask $owner
    if (-not $Held.ContainsKey($place)) {
        $mutex = Enter-Lock $place 'act'
        if ($null -eq $mutex) { Stop-Because 'busy' 'another action holds the placement' }
        $Held[$place] = $mutex
    }
    $running = Enter-Lock $place 'run'
    if ($null -eq $running) { Stop-Because 'busy' 'a command that was begun there has not ended' }
    Exit-Lock $running
    $fence = Get-Fence $place
    if ([long]$Ask.fence -lt $fence) {
        Stop-Because 'stale_fence' "changed under fence $fence, this action holds $($Ask.fence)"
    }
    if ($null -eq $owner) {
        [void][IO.Directory]::CreateDirectory($root)
        Protect-Directory $root $false
        [void][IO.Directory]::CreateDirectory([IO.Path]::Combine($root, '.holdfast'))
        $said = ConvertTo-Json @{ installation = [string]$Ask.installation; target = [string]$Ask.target } -Compress
        Write-Text ([IO.Path]::Combine($root, '.holdfast', 'owner.json')) $said
    }
    $releases = [IO.Path]::Combine($place, 'releases')
    if (-not [IO.Directory]::Exists($releases)) {
        [void][IO.Directory]::CreateDirectory($releases)
        Protect-Directory $releases $true
    }
    if ([long]$Ask.fence -gt $fence) { Write-Text ([IO.Path]::Combine($place, 'fence.txt')) ([string]$Ask.fence) }
    @{}
}

function Invoke-Close {
    foreach ($mutex in @($Held.Values)) { Exit-Lock $mutex }
    $Held.Clear()
    @{}
}

# -- looking -----------------------------------------------------------------------------------------------------------

function Get-Milliseconds([datetime]$Time) {
    [long]($Time.ToUniversalTime() - (New-Object datetime(1970, 1, 1, 0, 0, 0, [DateTimeKind]::Utc))).TotalMilliseconds
}

# The process and all that it has begun, and theirs.
function Get-Family([int]$Id, $Parents) {
    $family = New-Object Collections.Generic.HashSet[int]
    $next = @($Id)
    while ($next.Count) {
        $next = @(foreach ($one in $next) { if ($family.Add($one) -and $Parents.ContainsKey($one)) { $Parents[$one] } })
    }
    , $family
}

function Get-Parents {
    $parents = @{}
    $processes = @(Get-CimInstance -ClassName Win32_Process -Property @('ProcessId', 'ParentProcessId'))
    foreach ($process in $processes) {
        $parent = [int]$process.ParentProcessId
        if (-not $parents.ContainsKey($parent)) { $parents[$parent] = New-Object Collections.Generic.List[int] }
        $parents[$parent].Add([int]$process.ProcessId)
    }
    $parents
}

function Get-EnvironmentDigest([string]$Name) {
    $values = [Microsoft.Win32.Registry]::GetValue($Services + $Name, 'Environment', $null)
    Get-Digest $Utf8.GetBytes(($values -join "`0"))
}

function Get-Seen($Service, $Listeners, $Parents) {
    $id = [int]$Service.ProcessId
    $process = if ($id) { Get-Process -Id $id -ErrorAction SilentlyContinue } else { $null }
    $family = Get-Family $id $Parents
    $ours = @(if ($id) { $Listeners | Where-Object { $family.Contains([int]$_.OwningProcess) } })
    @{
        name        = $Service.Name
        state       = $Service.State
        start_mode  = $Service.StartMode
        command     = [string]$Service.PathName
        account     = [string]$Service.StartName
        exit_code   = [long]$Service.ExitCode
        environment = Get-EnvironmentDigest $Service.Name
        pid         = $id
        started_ms  = if ($null -eq $process) { $null } else { Get-Milliseconds $process.StartTime }
        ports       = @($ours | ForEach-Object { [int]$_.LocalPort } | Sort-Object -Unique)
    }
}

function Get-PlaceSeen([string]$Place, $Seen) {
    $sticker = [IO.Path]::Combine($Place, 'sticker.json')
    $worn = $null
    try {
        $text = Read-Text $sticker
        if ($null -ne $text) { $worn = @{ text = $text } }
    } catch { $worn = @{ problem = 'it cannot be read' } }
    $releases = [IO.Path]::Combine($Place, 'releases')
    $found = @(if ([IO.Directory]::Exists($releases)) { [IO.Directory]::GetDirectories($releases) } else { })
    @{
        folder   = [IO.Path]::GetFileName($Place)
        sticker  = $worn
        record   = Read-Text ([IO.Path]::Combine($Place, 'record.json'))
        result   = Read-Text ([IO.Path]::Combine($Place, 'result.json'))
        fence    = Get-Fence $Place
        releases = @(foreach ($one in $found) {
                $said = Read-Text ([IO.Path]::Combine($one, 'specification.json'))
                @{ name = [IO.Path]::GetFileName($one); specification = $said }
            })
        services = @($Seen)
    }
}

# One target's placements; those of its services that lie in no directory of a placement are seen by their names alone.
function Get-TargetSeen($Ask, $Table, $Listeners, $Parents) {
    $root = Get-Root $Ask
    if (-not [IO.Directory]::Exists($root)) { return @{ places = @() } }
    Assert-Ours $Ask (Get-Owner $root)
    $places = @(foreach ($place in [IO.Directory]::GetDirectories($root)) {
            $folder = [IO.Path]::GetFileName($place)
            if ($folder -ceq '.holdfast') { continue }
            $ours = "\A" + [regex]::Escape("$($Ask.services)-$folder-") + '[0-9a-f]{16}\z'
            $those = @($Table | Where-Object { $_.Name -cmatch $ours })
            Get-PlaceSeen $place @($those | ForEach-Object { Get-Seen $_ $Listeners $Parents })
        })
    @{ places = $places }
}

function Invoke-Look($Ask) {
    $table = @(Get-CimInstance Win32_Service -Filter "Name LIKE 'holdfast-%'")
    $listeners = @(); $parents = @{}
    if (@($table | Where-Object { $_.ProcessId }).Count) {
        $listeners = @(Get-NetTCPConnection -State Listen -ErrorAction SilentlyContinue)
        $parents = Get-Parents
    }
    $found = @(foreach ($target in $Ask.targets) {
            try { Get-TargetSeen $target $table $listeners $parents }
            catch { @{ unseen = $_.Exception.GetBaseException().Message } }
        })
    @{ targets = $found; taken = @($listeners | ForEach-Object { [int]$_.LocalPort } | Sort-Object -Unique) }
}

function Invoke-Facts($Ask) {
    $root = Get-Root $Ask
    $drive = New-Object IO.DriveInfo($root.Substring(0, 1))
    $identity = [Security.Principal.WindowsIdentity]::GetCurrent()
    $role = [Security.Principal.WindowsBuiltInRole]::Administrator
    $owner = try { Get-Owner $root } catch { @{ problem = $_.Exception.GetBaseException().Message } }
    $disk = $null
    if ($drive.IsReady) { $disk = @{ free = $drive.AvailableFreeSpace; size = $drive.TotalSize } }
    @{
        windows       = [string](Get-CimInstance Win32_OperatingSystem -Property Caption).Caption
        powershell    = [string]$PSVersionTable.PSVersion
        user          = $identity.Name
        administrator = (New-Object Security.Principal.WindowsPrincipal($identity)).IsInRole($role)
        time_ms       = Get-Milliseconds ([datetime]::UtcNow)
        disk          = $disk
        root          = [IO.Directory]::Exists($root)
        owner         = $owner
        lacking       = @($Ask.programs | Where-Object { -not [IO.File]::Exists($_) })
    }
}

# -- releases ----------------------------------------------------------------------------------------------------------

function Get-TreeDigest([string]$Tree) {
    $names = [string[]][IO.Directory]::GetFiles($Tree, '*', 'AllDirectories')
    [Array]::Sort($names, [StringComparer]::Ordinal)
    $text = foreach ($name in $names) {
        $name.Substring($Tree.Length + 1).Replace('\', '/') + "`0" + (Get-FileDigest $name) + "`n"
    }
    Get-Digest $Utf8.GetBytes(-join $text)
}

function Invoke-Intact($Ask) {
    $release = Get-Release $Ask $Ask.release
    $known = Read-Text ([IO.Path]::Combine($release, 'tree.sha256'))
    if ($null -eq $known) { return @{ intact = $false } }
    @{ intact = ($known -ceq (Get-TreeDigest ([IO.Path]::Combine($release, 'tree')))) }
}

function Invoke-Bring($Ask) {
    $archive = [IO.Path]::Combine((Get-Held $Ask), 'incoming.zip')
    $content = [Convert]::FromBase64String($Ask.content)
    $mode = if ([long]$Ask.offset -eq 0) { [IO.FileMode]::Create } else { [IO.FileMode]::Open }
    $file = New-Object IO.FileStream($archive, $mode, [IO.FileAccess]::Write)
    try {
        if ($file.Length -ne [long]$Ask.offset) { Stop-Because 'refused' 'the archive does not go on there' }
        [void]$file.Seek(0, [IO.SeekOrigin]::End)
        $file.Write($content, 0, $content.Length)
    } finally { $file.Dispose() }
    @{}
}

# All of the release or nothing of it: unpacked beside its place and renamed.
function Invoke-Unfold($Ask) {
    $archive = [IO.Path]::Combine((Get-Held $Ask), 'incoming.zip')
    $release = Get-Release $Ask $Ask.release
    if ((Get-FileDigest $archive) -cne $Ask.digest) { Stop-Because 'refused' 'what arrived is not what was sent' }
    Add-Type -AssemblyName System.IO.Compression.FileSystem
    Remove-Tree "$release.new"
    Remove-Tree $release
    $tree = [IO.Path]::Combine("$release.new", 'tree')
    [void][IO.Directory]::CreateDirectory($tree)
    [IO.Compression.ZipFile]::ExtractToDirectory($archive, $tree)
    Write-Text ([IO.Path]::Combine("$release.new", 'specification.json')) $Ask.specification
    Write-Text ([IO.Path]::Combine("$release.new", 'tree.sha256')) (Get-TreeDigest $tree)
    [IO.Directory]::Move("$release.new", $release)
    [IO.File]::Delete($archive)
    @{}
}

# -- services ----------------------------------------------------------------------------------------------------------

function Invoke-Method($Target, [string]$Method, $Arguments) {
    $at = if ($Target -is [string]) { @{ ClassName = $Target } } else { @{ InputObject = $Target } }
    $answer = Invoke-CimMethod @at -MethodName $Method -Arguments $Arguments
    if ($answer.ReturnValue -ne 0) { Stop-Because 'refused' "Windows answered $Method with $($answer.ReturnValue)" }
}

function Find-Service([string]$Name) { Get-CimInstance Win32_Service -Filter "Name = '$Name'" }

# A service's key says what it is given, secrets included, and by itself every account may read it: this one not.
function Protect-Key([string]$Name) {
    $acl = New-Object Security.AccessControl.RegistrySecurity
    $acl.SetAccessRuleProtection($true, $false)
    foreach ($sid in 'S-1-5-18', 'S-1-5-32-544') {
        $who = New-Object Security.Principal.SecurityIdentifier($sid)
        $said = $who, 'FullControl', 'ContainerInherit', 'None', 'Allow'
        $acl.AddAccessRule((New-Object Security.AccessControl.RegistryAccessRule -ArgumentList $said))
    }
    Set-Acl -Path "HKLM:\SYSTEM\CurrentControlSet\Services\$Name" -AclObject $acl
}

function Invoke-Install($Ask) {
    [void](Get-Held $Ask)
    $name = Get-ServiceName $Ask.service
    $said = @{
        DisplayName = [string]$Ask.display; PathName = [string]$Ask.command; StartMode = 'Manual'
        ServiceType = [byte]16; ErrorControl = [byte]1; DesktopInteract = $false
        StartName = [string]$Ask.account; StartPassword = ''
    }
    $there = Find-Service $name
    if ($null -eq $there) { $said['Name'] = $name; Invoke-Method 'Win32_Service' 'Create' $said }
    else { Invoke-Method $there 'Change' $said }
    Set-Service -Name $name -Description ([string]$Ask.description)
    Protect-Key $name
    $kind = [Microsoft.Win32.RegistryValueKind]::MultiString
    [Microsoft.Win32.Registry]::SetValue($Services + $name, 'Environment', [string[]]@($Ask.environment), $kind)
    # restarted by Windows a second after it has failed, or left alone; words of ours alone
    $actions = if ($Ask.restarts) { 'restart/1000/restart/1000/restart/1000' } else { '""' }
    [void](& "$env:SystemRoot\System32\sc.exe" failure $name reset= 86400 actions= $actions)
    if ($LASTEXITCODE) { Stop-Because 'refused' "the restarts of the service cannot be set: sc answered $LASTEXITCODE" }
    @{ environment = Get-EnvironmentDigest $name }
}

# Asked to stop, and ended with all that it has begun when its grace is over.
function Stop-One([string]$Name, [double]$Grace) {
    $there = Find-Service $Name
    if ($null -eq $there -or $there.State -eq 'Stopped') { return }
    $service = Get-Service -Name $Name
    try { $service.Stop() } catch { }
    try { $service.WaitForStatus('Stopped', [TimeSpan]::FromSeconds($Grace)) }
    catch [ServiceProcess.TimeoutException] {
        if ($there.ProcessId) { [void](& "$env:SystemRoot\System32\taskkill.exe" /T /F /PID $there.ProcessId) }
        $service.WaitForStatus('Stopped', [TimeSpan]::FromSeconds(10))
    }
}

# The journal first, then who is to stop, then who is to start: one order, carried out to its end whoever still waits.
function Invoke-Run($Ask) {
    $place = Get-Held $Ask
    $start = if ($null -eq $Ask.start) { $null } else { Get-ServiceName $Ask.start }
    Write-Text ([IO.Path]::Combine($place, 'record.json')) $Ask.record
    foreach ($other in @($Ask.stop)) {
        $name = Get-ServiceName $other
        if ($null -eq (Find-Service $name)) { continue }
        Set-Service -Name $name -StartupType Manual
        Stop-One $name $Ask.grace
    }
    if ($null -eq $start) { return @{ failed = $null } }
    Set-Service -Name $start -StartupType $(if ($Ask.boots) { 'Automatic' } else { 'Manual' })
    try {
        $service = Get-Service -Name $start
        if ($service.Status -ne 'Running') { $service.Start() }
        $service.WaitForStatus('Running', [TimeSpan]::FromSeconds($Ask.within))
        return @{ failed = $null }
    } catch { return @{ failed = $_.Exception.GetBaseException().Message } }
}

function Invoke-Drop($Ask) {
    [void](Get-Held $Ask)
    foreach ($other in @($Ask.services)) {
        $name = Get-ServiceName $other
        Stop-One $name $Ask.grace
        $there = Find-Service $name
        if ($null -ne $there) { Invoke-Method $there 'Delete' @{} }
    }
    foreach ($release in @($Ask.releases)) { Remove-Tree (Get-Release $Ask $release) }
    @{}
}

function Invoke-Write($Ask) {
    $path = [IO.Path]::Combine((Get-Held $Ask), (Get-Named $Ask.file 'sticker\.json|record\.json|result\.json' 'file'))
    if ($null -eq $Ask.content) { [IO.File]::Delete($path) } else { Write-Text $path $Ask.content }
    @{}
}

# -- programs and sockets ----------------------------------------------------------------------------------------------

# A program to its end, or to the end of its time, with what it printed first. `arguments` is quoted by who asks, after
# the rules by which programs take a command line apart; no shell reads it.
function Start-Program($Said, [string]$Directory, [int]$Limit) {
    $info = New-Object Diagnostics.ProcessStartInfo($Said.program, $Said.arguments)
    $info.UseShellExecute = $false
    $info.CreateNoWindow = $true
    $info.WorkingDirectory = $Directory
    $info.RedirectStandardInput = $true
    $info.RedirectStandardOutput = $true
    $info.RedirectStandardError = $true
    $info.EnvironmentVariables.Clear()
    foreach ($name in 'SystemRoot', 'SystemDrive', 'PATH', 'PATHEXT', 'TEMP', 'TMP', 'ComSpec') {
        $info.EnvironmentVariables[$name] = [Environment]::GetEnvironmentVariable($name)
    }
    foreach ($pair in @($Said.environment)) { $info.EnvironmentVariables[[string]$pair[0]] = [string]$pair[1] }
    try { $process = [Diagnostics.Process]::Start($info) }
    catch {
        $why = "cannot be run: $($_.Exception.GetBaseException().Message)"
        return @{ exit_code = 127; output = ''; cut = $false; why = $why }
    }
    $until = [datetime]::UtcNow.AddSeconds([double]$Said.within)
    $errors = $process.StandardError.BaseStream.CopyToAsync([IO.Stream]::Null)
    $bytes = $Utf8.GetBytes([string]$Said.stdin)
    $fed = $process.StandardInput.BaseStream.WriteAsync($bytes, 0, $bytes.Length)
    $kept = New-Object IO.MemoryStream
    $buffer = New-Object byte[] 65536
    $cut = $false; $closed = $false; $lingers = 0
    while ($true) {
        $read = $process.StandardOutput.BaseStream.ReadAsync($buffer, 0, $buffer.Length)
        while (-not $read.Wait(50)) {
            if (-not $closed -and $fed.IsCompleted) {
                $closed = $true
                try { $process.StandardInput.Close() } catch { }
            }
            if ([datetime]::UtcNow -gt $until) { break }
            if ($process.HasExited) { $lingers++ }
            if ($lingers -gt 10) { break }        # others hold its output, and may do so for ever
        }
        if (-not $read.IsCompleted -or $read.Result -eq 0) { break }
        $room = [Math]::Min($read.Result, $Limit - [int]$kept.Length)
        if ($room -lt $read.Result) { $cut = $true }
        if ($room -gt 0) { $kept.Write($buffer, 0, $room) }
    }
    $left = [Math]::Max(0, ($until - [datetime]::UtcNow).TotalMilliseconds)
    $late = -not $process.WaitForExit([int][Math]::Min($left, [int]::MaxValue))
    if ($late) { [void](& "$env:SystemRoot\System32\taskkill.exe" /T /F /PID $process.Id) }
    $output = $Utf8.GetString($kept.ToArray())
    $code = if ($late) { $null } else { $process.ExitCode }
    $why = if ($late) { "was not done within $($Said.within) s" } else { "ended with exit code $code" }
    @{ exit_code = $code; output = $output; cut = $cut; why = $why }
}

function Invoke-Ask($Ask) {
    $directory = Get-Place $Ask
    if ($null -ne $Ask.release) { $directory = [IO.Path]::Combine((Get-Release $Ask $Ask.release), 'tree') }
    Start-Program $Ask.command $directory 65536
}

# A command that goes on without us: what it is comes in a file that nobody else can read, and Windows itself starts its
# runner, which takes the file, holds the placement until the command has ended, and writes down how.
function Invoke-Order($Ask) {
    $place = Get-Held $Ask
    $file = [IO.Path]::Combine($place, 'order.json')
    $said = @{ program = $Order.program; token = $Ask.token; command = $Ask.command }
    Write-Text $file (ConvertTo-Json $said -Depth 20 -Compress)
    Invoke-Method 'Win32_Process' 'Create' @{ CommandLine = [string]$Order.runner; CurrentDirectory = $place }
    for ($tries = 0; $tries -lt 300; $tries++) {
        if (-not [IO.File]::Exists($file)) { return @{ token = $Ask.token } }
        Start-Sleep -Milliseconds 100
    }
    [IO.File]::Delete($file)
    Stop-Because 'unknown' 'the command was not begun in time'
}

function Invoke-Awaited($Ask) {
    $file = [IO.Path]::Combine((Get-Place $Ask), 'result.json')
    $until = [datetime]::UtcNow.AddSeconds([double]$Ask.within)
    while ($true) {
        $text = Read-Text $file
        if ($null -ne $text -and (ConvertFrom-Json $text).token -ceq $Ask.token) { return @{ result = $text } }
        if ([datetime]::UtcNow -gt $until) { return @{ result = $null } }
        Start-Sleep -Milliseconds 100
    }
}

function Start-Runner {
    $place = [Environment]::CurrentDirectory
    $mutex = Enter-Lock $place 'run'
    if ($null -eq $mutex) { return }
    [IO.File]::Delete([IO.Path]::Combine($place, 'order.json'))
    $ended = Start-Program $Order.command $place 65536
    $said = @($ended.output.Trim() -split "\r?\n" | Where-Object { $_ } | Select-Object -Last 1)
    $found = @{ token = $Order.token; exit_code = $ended.exit_code; why = $ended.why; said = $said }
    Write-Text ([IO.Path]::Combine($place, 'result.json')) (ConvertTo-Json $found -Compress)
    Exit-Lock $mutex
}

# A question to what listens on the host's own addresses: what is sent, and what comes until it ends.
function Invoke-Exchange($Ask) {
    $client = New-Object Net.Sockets.TcpClient([Net.IPAddress]::Parse($Ask.address).AddressFamily)
    $until = [datetime]::UtcNow.AddSeconds([double]$Ask.within)
    try {
        try { $there = $client.ConnectAsync([string]$Ask.address, [int]$Ask.port).Wait([int](1000 * $Ask.within)) }
        catch { return @{ refused = $true; content = '' } }
        if (-not $there) { return @{ refused = $null; content = '' } }
        $content = [Convert]::FromBase64String($Ask.content)
        $stream = $client.GetStream()
        $stream.Write($content, 0, $content.Length)
        $kept = New-Object IO.MemoryStream
        $buffer = New-Object byte[] 16384
        while ($content.Length -and $kept.Length -lt [int]$Ask.limit) {
            $left = [Math]::Max(0, ($until - [datetime]::UtcNow).TotalMilliseconds)
            $read = $stream.ReadAsync($buffer, 0, $buffer.Length)
            try { $came = $read.Wait([int]$left) } catch { break }     # reset
            if (-not $came) { return @{ refused = $null; content = '' } }
            if ($read.Result -eq 0) { break }
            $kept.Write($buffer, 0, $read.Result)
        }
        @{ refused = $false; content = [Convert]::ToBase64String($kept.ToArray()) }
    } finally { $client.Close() }
}

# -- requests ----------------------------------------------------------------------------------------------------------

function Invoke-Request($Ask) {
    switch -CaseSensitive ([string]$Ask.do) {
        'ask' { Invoke-Ask $Ask }
        'awaited' { Invoke-Awaited $Ask }
        'beat' { @{} }
        'bring' { Invoke-Bring $Ask }
        'close' { Invoke-Close }
        'drop' { Invoke-Drop $Ask }
        'exchange' { Invoke-Exchange $Ask }
        'facts' { Invoke-Facts $Ask }
        'hold' { Invoke-Hold $Ask }
        'install' { Invoke-Install $Ask }
        'intact' { Invoke-Intact $Ask }
        'look' { Invoke-Look $Ask }
        'order' { Invoke-Order $Ask }
        'run' { Invoke-Run $Ask }
        'unfold' { Invoke-Unfold $Ask }
        'write' { Invoke-Write $Ask }
        default { Stop-Because 'invalid' 'that is no request' }
    }
}

function Write-Answer($Answer) {
    $text = ConvertTo-Json $Answer -Depth 20 -Compress
    $plain = [regex]::Replace($text, '[^\x20-\x7e]', { param($m) '\u{0:x4}' -f [int][char]$m.Value })
    $bytes = $Utf8.GetBytes($plain + "`n")
    $Out.Write($bytes, 0, $bytes.Length)
    $Out.Flush()
}

if ($null -eq $Lines) { Start-Runner; return }
$Out = [Console]::OpenStandardOutput()
Write-Answer @{ holdfast = 1; machine = [string]$env:PROCESSOR_ARCHITECTURE }
while ($true) {
    $next = $Lines.ReadLineAsync()
    if (-not $next.Wait($(if ($Held.Count) { $Patience } else { -1 })) -or $null -eq $next.Result) { break }
    $ask = ConvertFrom-Json $next.Result
    try { $answer = @{ id = $ask.id; answer = (Invoke-Request $ask) } }
    catch {
        $cause = $_.Exception.GetBaseException()
        $code = if ($cause.Data.Contains('code')) { $cause.Data['code'] } else { 'refused' }
        $answer = @{ id = $ask.id; error = @{ code = $code; text = $cause.Message } }
    }
    Write-Answer $answer
}
[void](Invoke-Close)
